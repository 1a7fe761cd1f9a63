"""A live model from transformers: a torch module in fp32, its tokenizer, and how it decodes.

Nothing is opened before it is used, so an artifact can be made, listed and checked without torch.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crosslayer.errors import DependencyError, InputError

INSTALL = "python -m pip install 'torch>=2.6,<3' 'transformers>=5,<6' gguf safetensors"
# transformers makes a module on a device that is set for the whole process: two threads that open
# models at once leave parameters unset.
_OPENING = threading.RLock()
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class TransformersModel:
    """kinds.LiveModel on a transformers module (fp32, eval mode, no gradients).

    chunk_tokens: how many tokens a decoding step takes, None for a whole text at once. identity:
    changes when the weights it opens from change; for cache keys, "" where nobody knows.
    """

    def __init__(
        self,
        open_module: Callable[[], Any],
        open_tokenizer: Callable[[], Any],
        *,
        new_cache: Callable[[Any], Any] | None = None,
        chunk_tokens: int | None = None,
        identity: str = "",
    ) -> None:
        self._open_module = open_module
        self._open_tokenizer = open_tokenizer
        self._new_cache = new_cache or _full_cache
        self._module: Any = None
        self._tokenizer: Any = None
        self.chunk_tokens = chunk_tokens
        self.identity = identity

    @classmethod
    def from_directory(cls, path: str | Path, identity: str | None = None) -> TransformersModel:
        """A local Hugging Face directory: config.json, *.safetensors, tokenizer; no download.

        Errors: InputError where there are no safetensors weights; pickled ones are refused.
        """
        folder = Path(path)
        _weights_are_safetensors(folder)
        if identity is None:
            listing = sorted(
                (file.name, file.stat().st_size, file.stat().st_mtime_ns)
                for file in folder.iterdir()
                if file.is_file()
            )
            identity = hashlib.sha256(repr(listing).encode()).hexdigest()
        return cls(lambda: _open_module(folder), lambda: _open_tokenizer(folder), identity=identity)

    @property
    def module(self) -> Any:
        """The torch module, opened on first use."""
        with _OPENING:
            if self._module is None:
                self._module = self._open_module().eval().requires_grad_(False)
        return self._module

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, opened on first use."""
        if self._tokenizer is None:
            self._tokenizer = self._open_tokenizer()
        return self._tokenizer

    def new_cache(self) -> Any:
        """An empty cache for one sequence: what this model decodes through."""
        return self._new_cache(self.module)

    def copy(self) -> TransformersModel:
        """An independent copy: changing it leaves this one as it is; tied weights stay tied."""
        other = copy.copy(self)
        # A module that was never opened can be opened twice, which is as independent and needs no
        # copy now.
        other._module = copy.deepcopy(self._module)
        other.identity = ""
        return other

    def with_module(
        self,
        module: Any,
        *,
        new_cache: Callable[[Any], Any] | None = None,
        chunk_tokens: int | None = None,
    ) -> TransformersModel:
        """This model around another module, and with another cache or chunk size if given.

        new_cache is called with the module the cache will serve, so that it also holds after
        `copy`.
        """
        other = copy.copy(self)
        other._module = module.eval().requires_grad_(False)
        other._new_cache = new_cache or self._new_cache
        other.chunk_tokens = self.chunk_tokens if chunk_tokens is None else chunk_tokens
        other.identity = ""
        return other


def require_live_parts() -> None:
    """DependencyError with the install line unless torch and what goes with it can be imported."""
    missing = [
        name for name in ("torch", "transformers", "safetensors", "gguf") if find_spec(name) is None
    ]
    if missing:
        raise DependencyError(
            f"a live model needs {', '.join(missing)}, not installed here; run {INSTALL}, or set "
            "live = false"
        )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' own progress bars, which would mix with ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _full_cache(module: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=module.config)


def _open_module(folder: Path) -> Any:
    require_live_parts()
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        try:
            # The stored values widen to fp32 exactly.
            return AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (ValueError, OSError, RuntimeError) as error:
            raise InputError(
                f"{folder}: transformers cannot open it as a causal language model: {error}"
            ) from error


def _open_tokenizer(folder: Path) -> Any:
    require_live_parts()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (ValueError, OSError) as error:
        raise InputError(f"{folder}: holds no tokenizer that opens: {error}") from error


def _weights_are_safetensors(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a directory with a model in it")
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickled:
        raise InputError(
            f"{folder}: {pickled[0]} is a pickle, which can run code when it is opened; save the "
            "model as "
            "safetensors (save_pretrained of transformers does)"
        )
    raise InputError(
        f"{folder} holds no *.safetensors weights; for the shapes alone set live = false"
    )
