"""What learners and searches share: predictions of several teachers, their heads, distillation losses, joined pools."""
