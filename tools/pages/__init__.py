"""What the project's HTML pages share: each complete in itself, without a script, and every foreign text escaped."""
