"""A folder with a measured profile of kernels, in whichever format it is."""

from __future__ import annotations

from pathlib import Path

from crosslayer.errors import InputError
from hermes_sim.readers.kernel_bundle import Shape, read_kernel_bundle
from hermes_sim.readers.layers_profile import layers_folder, read_layers_profile
from hermes_sim.readers.vidur_profile import is_vidur_profile, read_vidur_profile
from hermes_sim.step_models.kernel_profile import KernelProfile


def read_profile(
    folder: Path, shape: Shape, *, network: Path | None = None, overhead_s: float = 0.0
) -> KernelProfile:
    """The step model of LLMServingSim's kernel bundle, of its older layout or of vidur's files.

    network: the folder of vidur's all_reduce.csv; None: the profile's. overhead_s: of a step beside
    its kernels. Errors: InputError for what is missing or broken.
    """
    if shape.layers < 1:
        raise InputError(
            f"{folder}: the model has no layers of attention, so no profile of kernels fits it"
        )
    if is_vidur_profile(folder):
        return read_vidur_profile(folder, shape, network=network, overhead_s=overhead_s)
    if network is not None:
        raise InputError(f"{network}: only a profile in vidur's format takes a network profile")
    if layers_folder(folder, shape.tensor_parallel) is not None:
        return read_layers_profile(folder, shape, overhead_s=overhead_s)
    return read_kernel_bundle(folder, shape, overhead_s=overhead_s)
