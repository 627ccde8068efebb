"""Who writes descriptions of edited images, and the file of them."""
