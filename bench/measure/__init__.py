"""What the performance figures of `docs/performance.md` are made with: servers, loads and the measures themselves."""
