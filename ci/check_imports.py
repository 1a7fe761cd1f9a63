"""The import rules of this repository, from plugins.toml: check_imports.py CONFIG-TO-WRITE.

Writes the configuration of import-linter, which sees who imports whom, and checks itself what that
tool cannot see: whether an import stands at the top of a module, where it runs for everyone, or
inside a function.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from catalogue import CORE, ROOT, Package, read_catalogue

# Optional parts of the core: imported inside the function that needs them.
HEAVY = frozenset(
    {
        "torch",
        "transformers",
        "gguf",
        "safetensors",
        "accelerate",
        "pandas",
        "pyarrow",
        "openai",
        "ray",
    }
)
# Listing components reads these two files of every package, so they stay light.
LIGHT_FILES = ("plugin.py", "params.py")
NOT_WHEN_LISTING = HEAVY | {"numpy", "matplotlib", "scipy", "triton"}


def linter_config(packages: Sequence[Package], core_parts: Sequence[str]) -> str:
    """The text of import-linter's configuration; `core_parts` are the modules below crosslayer."""

    def lines(names: Sequence[str]) -> str:
        return "".join(f"\n    {name}" for name in names)

    modules = [package.module for package in packages]
    others = [f"{CORE.module}.{part}" for part in core_parts if part not in ("contracts", "errors")]
    text = f"[importlinter]\nroot_packages ={lines([CORE.module, *modules])}\n"
    text += "include_external_packages = True\n"
    contracts = [
        ("The core imports no package", "forbidden", [CORE.module], modules),
        (
            "Contracts import nothing of the core but contracts and errors, and no torch",
            "forbidden",
            [f"{CORE.module}.contracts"],
            [*others, "torch", "transformers"],
        ),
    ]
    for number, (name, kind, sources, forbidden) in enumerate(contracts):
        text += f"\n[importlinter:contract:{number}]\nname = {name}\ntype = {kind}\n"
        text += f"source_modules ={lines(sources)}\nforbidden_modules ={lines(forbidden)}\n"
    if len(modules) > 1:
        text += "\n[importlinter:contract:independent]\nname = Packages never import each other\n"
        text += f"type = independence\nmodules ={lines(modules)}\n"
    return text


def imports_at_import_time(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of every import that runs when the module is imported.

    Not counted: function bodies, and blocks under `if TYPE_CHECKING`.
    """
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]
        waiting.extend(ast.iter_child_nodes(node))


def early_imports(root: Path, packages: Sequence[Package]) -> list[str]:
    """A sentence for each import that stands at the top of a module and must not."""
    looked_at = [(path, HEAVY) for path in sorted((root / CORE.path / "src").rglob("*.py"))]
    for package in packages:
        home = root / package.path / "src" / package.module
        looked_at += [(home / name, NOT_WHEN_LISTING) for name in LIGHT_FILES]
    found = []
    for path, banned in looked_at:
        if path.exists():
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [
                f"{path.relative_to(root)}:{line}: {name} is imported when the module is; "
                "import it inside the function that needs it."
                for line, name in sorted(imports_at_import_time(tree))
                if name in banned
            ]
    return found


def main() -> None:
    """Write the configuration, print every early import, exit 1 if there is one."""
    packages = read_catalogue()
    home = ROOT / CORE.path / "src" / CORE.module
    parts = sorted(
        path.stem
        for path in home.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem != "__init__"
    )
    Path(sys.argv[1]).write_text(linter_config(packages, parts), encoding="utf-8")
    problems = early_imports(ROOT, packages)
    print("\n".join(problems) or "No module imports a heavy library when it is imported.")
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
