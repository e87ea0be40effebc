"""Formats of the files that are written: JSON with a checksum, tensors with a document, what a certificate records.

Stands on errors alone, and replaces every file as a whole. Certificates, training runs, evaluations and the command
line write and read with it; ``net`` and ``audit`` write down in one way (``attributes``) what modules keep.
"""
