"""Number formats of weights: what a block holds, and back to float32."""
