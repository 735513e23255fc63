"""A Janus in a browser's tab: its parts as ONNX graphs, and a static page that runs them."""
