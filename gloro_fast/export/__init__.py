"""Files that give certified radii without this package: torch.export programs, AOTInductor packages, ONNX.

Stands on ``net``, ``rounding_error`` and ``files``; the command line calls it.
"""

from __future__ import annotations

from gloro_fast.export.certifying_module import CertifyingModule
from gloro_fast.export.description import METADATA_KEY, Description, read_description
from gloro_fast.export.writing import FORMATS, export_net

__all__ = ["FORMATS", "METADATA_KEY", "CertifyingModule", "Description", "export_net", "read_description"]
