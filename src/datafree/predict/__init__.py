"""Using a trained network: adapt it to a user's classes, classify images, export it."""
