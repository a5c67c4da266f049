"""How much memory a bundle takes on a device, before it is opened or built there."""
