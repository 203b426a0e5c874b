"""Platform, device, versions, storage, secrets, and the doctor that looks at them."""

from nbutils.environment.advice import Advice
from nbutils.environment.doctor import DoctorReport, doctor
from nbutils.environment.platform import Platform, detect, is_interactive

__all__ = [
    "Advice",
    "DoctorReport",
    "Platform",
    "detect",
    "doctor",
    "is_interactive",
]
