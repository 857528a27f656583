"""Our registries are children of all of mmengine's."""

from mmengine import registry as root
from mmengine.registry import Registry

from bestiary import registry


def test_every_kind_of_mmengine_has_a_child_of_ours():
    kinds = {name: kind for name, kind in vars(root).items() if isinstance(kind, Registry)}
    assert len(kinds) > 20
    without = [name for name, kind in kinds.items() if registry.SCOPE not in kind.children]
    assert not without
    for name, kind in kinds.items():
        child = kind.children[registry.SCOPE]
        assert child.parent is kind and child.name == kind.name
        assert getattr(registry, name, child) is child


def test_what_we_have_not_is_mmengines():
    from mmengine.visualization import LocalVisBackend

    assert root.VISBACKENDS.children[registry.SCOPE].get("LocalVisBackend") is LocalVisBackend
