"""Formats of the files that are written: JSON with a checksum, tensors with a document; each replaced as a whole.

Stands on errors alone. Certificates, training runs, evaluations and the command line write and read with it.
"""
