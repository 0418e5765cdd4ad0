"""A plan's certificate: the bound it was shown to keep, on which questions, and what that does not say."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import isclose
from typing import Any, TypedDict

from litestage.errors import LiteStageError, known_keys

SAYS_NOTHING_OF = "another task, questions of another kind, or how fast it is"
BOUNDED = ("accuracy", "agreement")


@dataclass(frozen=True)
class Certificate:
    """With probability ``confidence`` or more, over the draw of the questions, a plan that got one keeps its bound.

    Attributes:
        plan, model, pipeline: hash or fingerprint of each that it is about; of no other.
        bound: a fraction: the largest drop in accuracy or, on ``agreement``, share of answers not full depth's.
        on: ``accuracy`` or ``agreement``.
        confidence: e.g. 0.9.
        against: what the plan was held against: ``full`` depth, or ``full+exit``.
        task: whose calibration split the questions are of.
        questions: how many; nothing else was chosen by them.
        lost: full depth alone answered right; on agreement: answered otherwise.
        gained: the plan alone answered right; on agreement 0.
        p: how likely so little would be lost if the bound were broken (:mod:`litestage.stats.bound`).
    """

    plan: str
    model: str
    pipeline: str
    bound: float
    on: str
    confidence: float
    against: str
    task: str
    questions: int
    lost: int
    gained: int
    p: float

    def __str__(self) -> str:
        """In one sentence, and what it does not say."""
        share, seen = f"{self.bound * 100:g}", counted(self.on, self.lost, self.gained)
        if self.on == "agreement":
            promised = f"answers at most {share} % of questions otherwise than"
        else:
            promised = f"loses at most {share} points against"
        reference = "full depth" if self.against == "full" else "full depth with the exit rule"
        return (
            f"Certified at {self.confidence * 100:g} %: it {promised} {reference} on questions like {self.task}'s "
            f"({seen} of {self.questions} that the search did not see, p = {self.p:.3g}); "
            f"this says nothing of {SAYS_NOTHING_OF}."
        )

    @property
    def short(self) -> str:
        """For a table's cell."""
        what = "points" if self.on == "accuracy" else "% of answers"
        than = "" if self.against == "full" else f", against {self.against}"  # the drop beside it is against full depth
        return f"{self.bound * 100:g} {what}, {self.confidence * 100:g} %{than}"


def counted(on: str, lost: int, gained: int) -> str:
    """What the questions showed: ``1 lost and 0 gained``, or ``3 answered otherwise``."""
    return f"{lost} answered otherwise" if on == "agreement" else f"{lost} lost and {gained} gained"


class CertificateFile(TypedDict):
    """What of it is text in a YAML file."""

    plan: str
    model: str
    pipeline: str
    on: str
    against: str
    task: str
    says_nothing_of: str


def certificate_to_dict(certificate: Certificate) -> dict[str, Any]:
    return {**asdict(certificate), "says_nothing_of": SAYS_NOTHING_OF}


def certificate_from_dict(raw: Any, plan: str, model: object, pipeline: object) -> Certificate:
    """The certificate in a plan's file.

    Args:
        plan, model, pipeline: hash or fingerprint of each in the file.

    Raises:
        LiteStageError: a key or value that makes no sense, or a certificate of another plan.
    """
    known = {field.name: field.type for field in fields(Certificate)}
    known_keys("the certificate", raw, (*known, "says_nothing_of"))
    for key, kind in known.items():
        value = raw.get(key)
        if kind == "str" and not isinstance(value, str):
            raise _wrong(key, value, "a text")
        if kind == "int" and (type(value) is not int or value < (key == "questions")):
            raise _wrong(key, value, "a number of questions")
        if kind == "float" and (not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1):
            raise _wrong(key, value, "a fraction")
    made = Certificate(**{key: raw[key] for key in known})
    if made.on not in BOUNDED:
        raise _wrong("on", made.on, " or ".join(BOUNDED))
    for what, certified, here in (
        ("plan", made.plan, plan),
        ("model", made.model, model),
        ("pipeline", made.pipeline, pipeline),
    ):
        if certified != here:
            raise LiteStageError(
                f"its certificate is of the {what} {certified}, and this is {here}: it was changed since; take "
                "'certificate' out, or search again."
            )
    if made.lost + made.gained > made.questions:
        raise _wrong("questions", made.questions, f"at least the {made.lost + made.gained} lost and gained")
    if made.p > 1 - made.confidence + 1e-9:
        raise _wrong("p", made.p, f"at most {1 - made.confidence:g} at confidence {made.confidence:g}")
    from litestage.stats import Bound, Pairs  # NumPy and SciPy, only where there is a certificate

    p = Bound(made.bound, made.confidence, made.on).p_value(Pairs(made.lost, made.gained, made.questions))
    if not isclose(made.p, p, rel_tol=0.01, abs_tol=1e-9):
        raise _wrong("p", made.p, f"{p:.4g} of these counts at this bound")
    return made


def _wrong(key: str, value: object, instead: str) -> LiteStageError:
    return LiteStageError(f"{key!r} of the certificate is {value!r:.80}; it is {instead}. Search the plan again.")
