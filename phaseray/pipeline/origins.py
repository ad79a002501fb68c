"""Where crystals come from, in the words of a dataset card: licence and whom to cite, by kind of source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Origin(NamedTuple):
    """A kind of source.

    Attributes
    ----------
    name, words
        What it is called, and a sentence on it.
    licence
        Its identifier on the Hugging Face hub; "other" where only the source can say.
    citations
        What whoever uses the crystals is asked to cite.
    """

    name: str
    licence: str
    words: str
    citations: tuple[str, ...] = ()


ORIGINS: Mapping[str, Origin] = {
    "prototypes": Origin(
        "AFLOW prototypes",
        "mit",
        "The AFLOW library of crystallographic prototypes, as it comes inside pymatgen (MIT).",
        (
            "M. J. Mehl, D. Hicks, C. Toher, O. Levy, R. M. Hanson, G. Hart, S. Curtarolo. The AFLOW Library of "
            "Crystallographic Prototypes: Part 1. Comput. Mater. Sci. 136 (2017) S1–S828. "
            "doi:10.1016/j.commatsci.2017.01.017",
            "D. Hicks, M. J. Mehl, E. Gossett, C. Toher, O. Levy, R. M. Hanson, G. Hart, S. Curtarolo. The AFLOW "
            "Library of Crystallographic Prototypes: Part 2. Comput. Mater. Sci. 161 (2019) S1–S1011. "
            "doi:10.1016/j.commatsci.2018.10.043",
            "S. P. Ong et al. Python Materials Genomics (pymatgen). Comput. Mater. Sci. 68 (2013) 314–319. "
            "doi:10.1016/j.commatsci.2012.10.028",
        ),
    ),
    "synthetic": Origin(
        "artificial crystals",
        "cc0-1.0",
        "Random atoms in random cells, made by phaseray from a seed; nobody's rights are touched (CC0).",
    ),
    "symmetric": Origin(
        "artificial crystals with symmetry",
        "cc0-1.0",
        "Made by phaseray from a seed, in every space group; nobody's rights are touched (CC0).",
    ),
    "molecular": Origin(
        "artificial molecular crystals",
        "cc0-1.0",
        "Molecules put together at random, their conformations by RDKit, packed by phaseray from a seed (CC0).",
    ),
    "cif": Origin(
        "CIF files",
        "other",
        "Licence and citation are those of the files' source.",
    ),
    "amcsd": Origin(
        "American Mineralogist Crystal Structure Database",
        "other",
        "Terms as the database states them; it asks to be cited, and so do the papers behind its entries.",
        (
            "R. T. Downs, M. Hall-Wallace. The American Mineralogist Crystal Structure Database. "
            "Am. Mineral. 88 (2003) 247–250.",
        ),
    ),
    "table": Origin(
        "database tables",
        "other",
        "Licence and citation are those of the tables' source.",
    ),
    "core_mof": Origin(
        "CoRE MOF",
        "cc-by-4.0",
        "Computation-ready, experimental metal–organic frameworks (CC BY 4.0).",
        (
            "Y. G. Chung et al. Advances, Updates, and Analytics for the Computation-Ready, Experimental "
            "Metal–Organic Framework Database: CoRE MOF 2019. J. Chem. Eng. Data 64 (2019) 5985–5998. "
            "doi:10.1021/acs.jced.9b00835",
            "Y. G. Chung et al. Computation-Ready, Experimental Metal–Organic Frameworks: A Tool To Enable "
            "High-Throughput Screening of Nanoporous Crystals. Chem. Mater. 26 (2014) 6185–6192. "
            "doi:10.1021/cm502594j",
        ),
    ),
}  # fmt: skip


def origin(kind: str, sources: list[dict[str, Any]]) -> Origin:
    """What is known of a kind of source, and what the configuration's `license` and `citation` add to it."""
    known = ORIGINS.get(kind) or Origin(kind, "other", "Licence and citation are those of the source.")
    said = [s for s in sources if s.get("kind") == kind]
    licences = list(dict.fromkeys(str(s["license"]) for s in said if s.get("license")))
    citations = list(dict.fromkeys(str(s["citation"]) for s in said if s.get("citation")))
    if licences:
        named = licences[0].lower().replace(" ", "-") if len(licences) == 1 else "other"
        known = known._replace(licence=named, words=f"Licence as configured: {', '.join(licences)}.")
    return known._replace(citations=(*known.citations, *citations))


_PRIVATE = re.compile(r"options|secret|password|token|(access|api|session)_?key", re.IGNORECASE)


def portable(value: Any) -> Any:
    """A configuration without what belongs to one machine or person: folders above a file, keys, passwords."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items() if not _PRIVATE.search(str(key))}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if not isinstance(value, str):
        return value
    value = re.sub(r"://[^/@]*@", "://", value)
    if re.match(r"/|~|file:|[A-Za-z]:[\\/]", value):
        return re.split(r"[\\/]", value.rstrip("/\\"))[-1]
    return value
