"""The seventeen datasets that Union14M was made from.

Counts and years are those of Jiang et al., *Revisiting Scene Text Recognition: A Data Perspective* (ICCV 2023) and of
the files published with it, and so are links and licences where the datasets' own pages do not say otherwise. A field
is empty where nothing certain is known: an empty licence allows nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class OriginalDataset:
    """A published dataset from which Union14M took images."""

    name: str
    """Its name in the paper."""
    images: int
    """Word images in Union14M after refinement, as published: rounded."""
    year: int | None = None
    """Year of publication."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the languages it was made for; Union14M kept its Latin words."""
    licence: str = ""
    """SPDX identifier of its licence."""
    link: str = ""
    """Where it is published."""
    terms: str = ""
    """What the licence is of, or what is known where there is none."""


_TC11 = "http://www.iapr-tc11.org/mediawiki/index.php"
_OPEN_IMAGES = "of the images, as Open Images lists them without warranty"

LABELLED_ORIGINALS = (
    OriginalDataset("KAIST", 2_000, 2011, ("en", "ko"), "CC-BY-SA-3.0", f"{_TC11}/KAIST_Scene_Text_Database"),
    OriginalDataset(
        "NEOCR", 3_000, 2011, ("en",), "CC-BY-NC-SA-4.0", f"{_TC11}/NEOCR:_Natural_Environment_OCR_Dataset"
    ),
    OriginalDataset(
        "Uber-Text",
        208_000,
        2017,
        ("en",),
        "CC-BY-SA-4.0",
        "https://s3-us-west-2.amazonaws.com/uber-common-public/ubertext/index.html",
    ),
    OriginalDataset("RCTW", 7_000, 2017, ("en", "zh"), link="https://rctw.vlrlab.net/dataset"),
    OriginalDataset(
        "IIIT-ILST",
        2_000,
        2017,
        ("en", "hi", "te", "ml"),
        link="https://cvit.iiit.ac.in/research/projects/cvit-projects/iiit-ilst",
        terms="its page allows research only, and no redistribution; Union14M lists it as CC-BY-4.0",
    ),
    OriginalDataset(
        "MTWI",
        53_000,
        2018,
        ("en", "zh"),
        "CC-BY-NC-4.0",
        "https://tianchi.aliyun.com/competition/entrance/231685/information",
    ),
    OriginalDataset(
        "COCOTextV2",
        73_000,
        2018,
        ("en",),
        "CC-BY-4.0",
        "https://vision.cornell.edu/se3/coco-text-2/",
        "of the annotations; the images are those of MS COCO",
    ),
    OriginalDataset("LSVT", 38_000, 2019, ("en", "zh"), link="https://rrc.cvc.uab.es/?ch=16"),
    OriginalDataset(
        "MLT19",
        56_000,
        2019,
        ("ar", "bn", "de", "en", "fr", "hi", "it", "ja", "ko", "zh"),
        "CC-BY-NC-4.0",
        "https://rrc.cvc.uab.es/?ch=15",
    ),
    OriginalDataset("ReCTS", 25_000, 2019, ("en", "zh"), link="https://rrc.cvc.uab.es/?ch=12"),
    OriginalDataset("ArT", 35_000, 2019, ("en", "zh"), link="https://rrc.cvc.uab.es/?ch=14"),
    OriginalDataset(
        "IntelOCR",
        2_010_000,
        2021,
        ("en",),
        "CC-BY-2.0",
        "https://arxiv.org/abs/2106.12326",
        f"{_OPEN_IMAGES}; that of the text annotations is not known",
    ),
    OriginalDataset(
        "TextOCR",
        586_000,
        2021,
        ("en",),
        "CC-BY-4.0",
        "https://textvqa.org/textocr/",
        "of the annotations; the images are those of Open Images",
    ),
    OriginalDataset(
        "HierText",
        945_000,
        2022,
        ("en",),
        "CC-BY-SA-4.0",
        "https://github.com/google-research-datasets/hiertext",
        "of the annotations; the images are those of Open Images",
    ),
)
"""Those of Union14M-L."""

UNLABELLED_ORIGINALS = (
    OriginalDataset(
        "Book32",
        2_700_000,
        2016,
        link="https://github.com/uchidalab/book-dataset",
        terms="addresses of book covers at a shop",
    ),
    OriginalDataset(
        "Conceptual Captions",
        5_600_000,
        2018,
        link="https://github.com/google-research-datasets/conceptual-captions",
        terms="addresses of images anywhere on the web",
    ),
    OriginalDataset(
        "OpenImages",
        2_300_000,
        2020,
        (),
        "CC-BY-2.0",
        "https://github.com/cvdfoundation/open-images-dataset",
        f"{_OPEN_IMAGES}; Union14M lists the Apache licence, which is that of the repository's code",
    ),
)
"""Those of Union14M-U."""
