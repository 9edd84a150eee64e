"""An object made of a configuration: its settings are attributes, and `_changed` hears of every change."""

from __future__ import annotations

import inspect
from copy import copy
from difflib import get_close_matches
from typing import Any

from experimentator.config import Config, ConfigError, as_config
from experimentator.graph.signatures import annotations_of
from experimentator.other_libraries import ATTRIBUTES, tell_assigned, tell_steps
from experimentator.settings import DEFAULTS, LIBRARY_KEYS, LISTS, Settings, check_names, check_values, kept


class _Composed(type):
    """Takes the namespace of a `type(name, bases, config)` call as the configuration.

    Thus `type("Exp", (MyExperiment, BaseExperiment), {"batch_size": 32, ...})()` is an experiment of that
    configuration, and a setting such as `subsets` does not hide the property of that name. A class statement always
    sets `__qualname__`; such a call does not. The plain settings of a class statement (`batch_size = 32`) count where
    the configuration has none; properties stay.
    """

    def __new__(meta, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> Any:
        if "__qualname__" in namespace:
            own = namespace.keys() & LIBRARY_KEYS.keys()
            if methods := [key for key in sorted(own) if inspect.isfunction(namespace[key])]:
                raise ConfigError(
                    f"{methods[0]!r} of {name} is a method, but it is read as an attribute.",
                    f"Seen: def {methods[0]}(...).",
                    "Write @functools.cached_property above it.",
                )
            tell_steps(name, namespace)
            plain = {key: namespace[key] for key in own if not hasattr(type(namespace[key]), "__get__")}
            rest = {key: value for key, value in namespace.items() if key not in plain}
            return super().__new__(meta, name, bases, {**rest, "_plain": plain}, **kwargs)
        return super().__new__(meta, name, bases, {"_config": namespace, "__module__": __name__}, **kwargs)


class Configured(metaclass=_Composed):
    """Holds the configuration as `cfg`, and where it comes from as `source`."""

    _config: Any = None
    _plain: dict[str, Any]  # settings of a class statement
    _giving_way: frozenset[str] = frozenset()  # properties that a setting of that name replaces
    _seen: dict[str, list[int]]
    cfg: Settings
    source: Config

    def __init__(self, config: Any = None, **overrides: Any):
        classes = [vars(one).get("_plain", {}) for one in reversed(type(self).__mro__)]
        plain = {key: copy(value) if key in LISTS else value for one in classes for key, value in one.items()}
        config = self._config if config is None else config
        bare = plain or ({} if overrides else None)
        source = as_config(bare if config is None else config, overrides, known=LIBRARY_KEYS)
        for key, value in plain.items():
            source.setdefault(key, value)
        check_names(source, set=source, taken=self._taken())
        source |= {key: kept(key, value) for key, value in source.items()}
        check_values(source)
        # past __setattr__, which asks for cfg
        vars(self).update(source=source, cfg=Settings(source, self._assigned), _seen={})

    def __getattr__(self, name: str) -> Any:
        if hasattr(type(self), name):  # a property raised an AttributeError: show that one
            return object.__getattribute__(self, name)
        if "cfg" not in vars(self):
            said = f"{type(self).__name__!r} object has no attribute {name!r} yet: it holds no configuration"
            raise AttributeError(f"{said}.\nCall super().__init__(config, **overrides) first in its __init__.")
        cfg = self.cfg
        if name in cfg or name in LIBRARY_KEYS:
            return cfg.get(name, DEFAULTS.get(name))
        wrong = f"{type(self).__name__!r} object has no attribute {name!r}, nor a setting of that name"
        if name in ATTRIBUTES:  # without `obj`, so that Python suggests no similar name
            raise AttributeError(f"{wrong}.\n{ATTRIBUTES[name]}", name=name, obj=None)
        if near := get_close_matches(name, LIBRARY_KEYS, n=1, cutoff=0.88):  # the cutoff of check_names
            raise AttributeError(f"{wrong}.\nDid you mean {near[0]!r}?", name=name, obj=None)
        raise AttributeError(wrong, name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in LIBRARY_KEYS or name in self.cfg:
            self.cfg[name] = value
            return
        if inspect.isroutine(getattr(type(self), name, None)) and not callable(value):
            check_names({name: value}, set=(), taken={name})
        elif not hasattr(type(self), name):
            check_names({name: value}, set=self.cfg, taken=())
            tell_assigned(name, type(self))
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.cfg:
            del self.cfg[name]
        elif name in LIBRARY_KEYS:
            raise AttributeError(
                f"{name!r} is not set.\nSeen: {getattr(self, name)!r:.60}, which is its default.\nAssign another value."
            )
        else:
            super().__delattr__(name)

    def __dir__(self) -> list[str]:
        """Attributes and settings, for completion."""
        return sorted({*super().__dir__(), *LIBRARY_KEYS, *(key for key in self.cfg if key.isidentifier())})

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"An experiment is neither copied nor pickled.\nSeen: a copy of {type(self).__name__}.\n"
            "Build another of the same configuration: build_experiment(path, ...); save_weights and load_weights carry "
            "weights from one to the other, save_checkpoint and resume a training."
        )

    def get(self, key: str, default: Any = None) -> Any:
        """A setting, or `default`.

        >>> from experimentator import build_experiment
        >>> exp = build_experiment({"width": 8})
        >>> exp.get("width"), exp.get("depth", 3)
        (8, 3)
        """
        return self.cfg.get(key, default)

    def update(self, **values: Any) -> None:
        """Change several settings.

        >>> from experimentator import build_experiment
        >>> exp = build_experiment({"width": 8})
        >>> exp.update(width=16, batch_size=4)
        >>> exp.width, exp.batch_size
        (16, 4)
        """
        self.cfg.update(values)

    def _changed(self, key: str, old: Any, new: Any) -> None:
        """A setting has a new value."""
        raise NotImplementedError

    def _taken(self) -> set[str]:
        """Public names of methods, properties and annotations, which no setting may have."""
        annotated = {name for one in type(self).__mro__ for name in annotations_of(one)}
        names = {*dir(type(self)), *annotated} - self._giving_way
        return {name for name in names if not name.startswith("_")}

    def _assigned(self, key: str, old: Any, new: Any) -> None:
        if key not in LIBRARY_KEYS:
            check_names({key: new}, set=self.cfg, taken=self._taken())
        self._seen.pop(key, None)  # or `_notice` would report it once more
        self._changed(key, old, new)

    def _notice(self) -> None:
        """Report lists of the configuration that were changed in place since they were last used."""
        now = {key: [id(one) for one in self.cfg[key]] for key in LISTS if isinstance(self.cfg.get(key), list)}
        for key in self._seen.keys() & now.keys():
            if self._seen[key] != now[key]:
                self._changed(key, None, self.cfg[key])
        vars(self)["_seen"] = now  # past __setattr__, which compares a name with those of all settings
