"""Models of Hugging Face -> the cache: a repository's safetensors, or one of its GGUF files."""

import contextlib
import glob
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from herd.errors import ConfigError, DownloadError, HerdError, first_line
from herd.weights.choose import choose, gguf_models, listed, part_of
from herd.weights.local import HubName, folder_name, hub_name

_BESIDE_SAFETENSORS = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")


def pull_hf(
    name: str,
    home: Path,
    *,
    token: str | None = None,
    endpoint: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Fetch `hf:ORG/NAME[/FILE.gguf][:QUANT][@REVISION]`: the folder of its safetensors, or its (first) GGUF file.

    Without a quantization or file, safetensors are taken where there are any, else one GGUF file, and `say` is told
    which and what else there is. What a fetch that failed has got is kept, and the same call goes on from there.
    """
    wanted = hub_name(name)
    with _explained(wanted):
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.hf_api import RepoFile

        api = HfApi(endpoint=endpoint, token=token)
        tree = api.list_repo_tree(wanted.repository, recursive=True, revision=wanted.revision)
        sizes = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
        files = _wanted_files(wanted, sizes, name, say)
        folder = home / folder_name(name)
        patterns = list(_BESIDE_SAFETENSORS) if files is None else [glob.escape(file) for file in files]
        snapshot_download(
            wanted.repository, revision=wanted.revision, local_dir=folder, allow_patterns=patterns, token=token,
            endpoint=endpoint, ignore_patterns=["original/*"] if files is None else None,
        )  # fmt: skip
    return folder if files is None else folder / files[0]


def _wanted_files(
    wanted: HubName, sizes: Mapping[str, int], name: str, say: Callable[[str], None]
) -> tuple[str, ...] | None:
    """The GGUF files to fetch; None for the repository's safetensors."""
    models = gguf_models(sizes)
    if wanted.file is not None:
        found = next((model for model in models if wanted.file in model.files), None)
        if found is not None:
            return found.files
        if wanted.file in sizes and part_of(wanted.file) is None:
            raise ConfigError(f"{name}: that file is no model of its own; there is {listed(models)}")
        raise DownloadError(f"{wanted.repository} has no whole {wanted.file}; there is {listed(models)}")
    if wanted.quant is None and "config.json" in sizes and any(_weights(file) for file in sizes):
        return None
    if not models:
        raise DownloadError(
            f"{wanted.repository} {_instead(sizes)}; herd fetches safetensors with a config.json, or GGUF"
        )
    chosen = choose(models, wanted.quant, name)
    if wanted.quant is None and len(models) > 1:
        others = sorted((model for model in models if model is not chosen), key=lambda model: model.size)
        say(
            f"{name}: fetching {listed([chosen])}. There is also {listed(others)}: "
            f"choose as in hf:{wanted.repository}:{others[0].quant or others[0].files[0]}"
        )
    return chosen.files


def _weights(file: str) -> bool:
    return file.endswith(".safetensors") and not file.startswith(("original/", "adapter_"))


def _instead(sizes: Mapping[str, int]) -> str:
    """What a repository without weights that herd reads has."""
    if "adapter_config.json" in sizes:
        return "holds a LoRA adapter, no model: merge it into its base model first"
    kinds = sorted(
        {Path(file).suffix for file in sizes if Path(file).suffix in (".bin", ".pt", ".pth", ".onnx", ".h5")}
    )
    return f"holds weights as {', '.join(kinds)} only" if kinds else "holds no weights"


@contextlib.contextmanager
def _explained(wanted: HubName) -> Iterator[None]:
    """Turn the library's errors into one line each."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    repository = wanted.repository
    try:
        yield
    except GatedRepoError as error:
        raise DownloadError(
            f"{repository} is gated: accept its licence on its Hugging Face page, make an access token in your account's "
            "settings, then run again with HF_TOKEN set to it"
        ) from error
    except RevisionNotFoundError as error:
        raise DownloadError(
            f"{repository} has no revision {wanted.revision!r}; leave it out or name a branch, tag or commit"
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"{repository}: no such repository on Hugging Face, or a private one; check the name, or set HF_TOKEN"
        ) from error
    except HerdError:
        raise
    except Exception as error:  # the library's, its HTTP client's (which differs between versions) or the system's
        raise DownloadError(
            f"{repository}: could not be fetched ({first_line(error)}); run it again to continue"
        ) from error
