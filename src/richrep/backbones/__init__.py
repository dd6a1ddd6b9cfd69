"""Backbones: networks that turn images into features, each with its preprocessing and what is known about it.

addresses.py is the way in (`load_backbone`); families/ holds one file per kind of checkpoint.
"""
