"""What models are trained on: samples, map-style sources, mixtures and collation."""
