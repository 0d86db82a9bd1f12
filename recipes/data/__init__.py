"""Annotations in any format to clips, clips to questions and reference answers, and augmentation."""
