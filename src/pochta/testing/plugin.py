"""The pytest plugin that ships with Pochta: the fixture `pochta`, a whole server inside the test's process."""
