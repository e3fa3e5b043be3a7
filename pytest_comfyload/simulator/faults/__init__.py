"""Everything that can be made to go wrong: without faults none of this runs, and the plain parts serve alone."""

from __future__ import annotations

from pytest_comfyload.simulator.faults.table import FAULTS, Fault, Faults, Kind, check_faults, parse_fault

__all__ = ["FAULTS", "Fault", "Faults", "Kind", "check_faults", "parse_fault"]
