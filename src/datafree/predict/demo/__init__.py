"""A local page to try learners: photos in classes, predictions with their probabilities, learners side by side."""
