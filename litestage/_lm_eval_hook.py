"""Makes ``lm_eval --model litestage --tasks obqa_multistage`` work with no wrapper and no ``--include_path``.

lm-eval 0.4.13 finds neither models nor tasks of other packages. ``litestage.pth`` calls :func:`install` whenever a
Python process of the environment starts; it only puts a finder on ``sys.meta_path``, which reacts to two of lm-eval's
modules once somebody imports them: the model is then registered, and our task folder is searched besides theirs.
``LITESTAGE_NO_HOOK=1`` turns it off. Nothing is imported here at start-up but ``sys``.
"""

import sys

MODELS = "lm_eval.models"
TASKS = "lm_eval.tasks.manager"


def install():
    """Installs the finder, once; does nothing when ``LITESTAGE_NO_HOOK`` is set to anything but 0."""
    if _switched_off() or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    for name, patch in _PATCHES.items():
        if name in sys.modules:
            patch(sys.modules[name])
    sys.meta_path.insert(0, _Finder())


def _switched_off():
    import os  # loaded by the interpreter long before this

    return os.environ.get("LITESTAGE_NO_HOOK", "0") not in ("", "0")


def _register_model(models):
    from lm_eval.api.registry import model_registry

    if "litestage" not in model_registry:
        model_registry.register("litestage", target="litestage.harness.lm:LiteStageLM")


def _add_tasks(manager):
    from inspect import signature

    theirs = manager.TaskManager.__init__

    def with_ours(self, *args, **keywords):
        given = signature(theirs).bind(self, *args, **keywords)
        if given.arguments.get("include_defaults", True):
            from litestage.conf import folder

            paths = given.arguments.get("include_path") or []
            paths = list(paths) if isinstance(paths, (list, tuple)) else [paths]
            given.arguments["include_path"] = [folder("tasks"), *paths]  # a later folder wins: the user's
        theirs(*given.args, **given.kwargs)

    manager.TaskManager.__init__ = with_ours


_PATCHES = {MODELS: _register_model, TASKS: _add_tasks}


class _Finder:
    """Lets the other finders find lm-eval's two modules and has them patched once they are loaded."""

    def find_spec(self, name, path=None, target=None):
        if name not in _PATCHES:
            return None
        for finder in sys.meta_path:
            found = None if finder is self else finder.find_spec(name, path, target)
            if found is not None and found.loader is not None:
                found.loader = _Loader(found.loader, _PATCHES[name])
                return found
        return None


class _Loader:
    """A module's own loader, with a patch applied after it has run the module."""

    def __init__(self, loader, patch):
        self._loader, self._patch = loader, patch

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        try:
            self._patch(module)
        except Exception as error:  # another release of lm-eval must still import
            sys.stderr.write(f"litestage: lm-eval does not know our models and tasks ({error!r})\n")
