"""The console: what people do in a browser. Pages rendered by the server; no page needs a script to be read."""
