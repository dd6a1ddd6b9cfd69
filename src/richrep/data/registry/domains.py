"""The same classes from several sources: hospitals, styles."""

from __future__ import annotations

from richrep.data.registry.entry import DatasetEntry, NamedSplit

_PACS_SIZES = {"sketch": 3_929, "art_painting": 2_048, "cartoon": 2_344, "photo": 1_670}

ENTRIES = (
    DatasetEntry(
        name="camelyon17",
        title="CAMELYON17-WILDS v1.0",
        reader="camelyon17.read",
        num_classes=2,
        splits={
            "ood": NamedSplit(
                {"train": 302_436, "val": 34_904, "test": 85_054},
                rule="val is hospital 1 (out of distribution), test hospital 2, train hospitals 0, 3 and 4",
            ),
            "id": NamedSplit(
                {"train": 302_436, "val": 33_560, "test": 85_054},
                rule="val is id_val, of the hospitals of train (0, 3 and 4); test is hospital 2",
            ),
        },
        sizes_from="Koh et al. 2021 (WILDS)",
        licence="CC0 1.0",
        homepage="https://wilds.stanford.edu/datasets/#camelyon17",
        needs=("camelyon17_v1.0/metadata.csv", "camelyon17_v1.0/patches"),
        layout="camelyon17_v1.0/metadata.csv, camelyon17_v1.0/patches/patient_004_node_4/*.png …; the group of an "
        "image is its hospital",
        get="Its host, https://worksheets.codalab.org/rest/bundles/0xe45e15f39fb54e9d9e919556af67aabe/contents/blob/, "
        "may be gone. From its archive or a copy of yours, put metadata.csv and the folder patches (455,954 images in "
        "folders patient_004_node_4 …) into DATA_ROOT/camelyon17_v1.0.",
        mirrors=("hf:wltjr1007/Camelyon17-WILDS",),
        aliases=("camelyon", "wilds-camelyon17"),
    ),
    DatasetEntry(
        name="pacs",
        title="PACS, four styles: photo, art painting, cartoon, sketch",
        reader="class_folders.read_pacs",
        num_classes=7,
        splits={
            domain: NamedSplit(
                {"train": sum(_PACS_SIZES.values()) - size, "test": size},
                rule=f"test is the domain {domain}, train the other three",
            )
            for domain, size in _PACS_SIZES.items()
        },
        sizes_from="Li et al. 2017",
        licence="none stated; cite Li et al. 2017",
        homepage="https://domaingeneralization.github.io/",
        needs=tuple(f"PACS/{domain}" for domain in sorted(_PACS_SIZES)),
        layout="PACS/{art_painting,cartoon,photo,sketch}/CLASS/*; the group of an image is its domain",
        get="Put the four folders of the release (folder kfold) into DATA_ROOT/PACS.",
        mirrors=("hf:flwrlabs/pacs",),
        aliases=("pacs_kfold",),
    ),
)
