"""How batches reach the device: blocks of batches, and the workers that read them."""
