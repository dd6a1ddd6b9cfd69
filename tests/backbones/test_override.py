import pytest

from richrep.backbones.addresses import load_backbone
from richrep.backbones.override import override_preprocessing
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import RichrepError


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("random/resnet18")


def test_what_is_not_set_stays(backbone) -> None:
    assert override_preprocessing(backbone, []) is backbone
    own = backbone.preprocessing
    changed = override_preprocessing(backbone, ["mean=0.5,0.4,0.3", "interpolation=nearest"])
    geometry = Geometry(own.geometry.size_px, own.geometry.resize_px, "nearest")
    assert changed.preprocessing == Preprocessing(geometry, (0.5, 0.4, 0.3), own.std)
    assert changed.load_report[-1] == "preprocessing set by hand: mean, interpolation"
    assert changed.trunk is backbone.trunk


def test_a_size_keeps_the_proportion_of_the_crop(backbone) -> None:
    assert override_preprocessing(backbone, ["size=224", "resize=256"]).preprocessing.geometry.resize_px == 256
    at_256 = override_preprocessing(backbone, ["size=224", "resize=256"])
    assert override_preprocessing(at_256, ["size=448"]).preprocessing.geometry == Geometry((448, 448), 512, "bicubic")
    squashed = override_preprocessing(backbone, ["resize=squash"]).preprocessing.geometry
    assert squashed.resize_px is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sise=3", "Unknown preprocessing setting 'sise'. Did you mean 'size'"),
        ("size", "Preprocessing size= cannot be used: invalid literal"),
        ("size=0", "size_px must be"),
        ("resize=10", "resize_px must be at least 224"),
        ("mean=1,2", "expected three numbers with commas between them, got '1,2'"),
        ("std=0,1,1", "std must be > 0"),
        ("interpolation=cubic", "Unknown interpolation 'cubic'"),
    ],
)
def test_what_cannot_be_is_said(backbone, setting: str, message: str) -> None:
    with pytest.raises(RichrepError) as caught:
        override_preprocessing(backbone, [setting])
    assert message in str(caught.value)
