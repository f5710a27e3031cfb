"""Parts of different backends in one application, on real private servers."""
