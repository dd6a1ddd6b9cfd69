"""Backbones: networks that turn images into features, each with its preprocessing and what is known about it.

addresses.py is the way in (`load_backbone`). files/ reads a file safely, formats/ finds the networks in it, families/
lays one out, zoo/ knows the published files by name.
"""
