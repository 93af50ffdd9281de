"""Families of CWE numbers: weaknesses that one mistake makes and one mending takes away (after MITRE's CWE-1000 view, coarsened)."""

_FAMILIES = (
    "20 22 23 36 73 98 377 378 379 434 668",  # files and paths
    "74 77 78 88 94 95 96 470 749 917 1336",  # commands and code
    "79 80 116",  # scripts in pages
    "89 564 943",  # queries to databases
    "90 91 611 643 776",  # other query languages, XML
    "118 119 120 121 122 124 125 126 127 131 134 190 242 369 401 415 416 467 476 562 590 665 676 680 690 704 770 787 788 805 824 908",  # memory
    "259 312 319 321 522 532 538 540 615 798 200 209 214",  # secrets lying about
    "261 323 324 325 326 327 328 329 347 354 759 760 780 916 1204 1240",  # ciphers and digests
    "208 330 331 332 334 335 336 337 338 340 1241",  # randomness, timing
    "276 250 269 276 280 732 807 426 427",  # rights
    "295 296 297 298 299 322",  # who is on the other side
    "345 346 352 554 601 693 918 942 1004 1275 614",  # requests across sites
    "502 915 913 1321",  # objects from data
    "287 290 306 521 862 863 285",  # who is asking
    "185 400 730 1333 1120",  # time without end
)
_OF = {f"CWE-{number}": i for i, family in enumerate(_FAMILIES) for number in family.split()}


def same_family(one: str, other: str) -> bool:
    """Whether two CWE names are equal or of one family."""
    return one == other or (one in _OF and _OF.get(one) == _OF.get(other))
