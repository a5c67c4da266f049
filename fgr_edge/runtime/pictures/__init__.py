"""What becomes of a picture's pixels before the vision graph."""
