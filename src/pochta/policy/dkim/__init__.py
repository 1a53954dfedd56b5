"""Signatures of domains on messages: checked (`verify`) and made (`sign`). Source: RFC 6376, RFC 8301, RFC 8463."""
