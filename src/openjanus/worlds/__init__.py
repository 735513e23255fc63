"""Worlds: what a Janus can be trained in and judged by. Nothing but the commands imports them."""
