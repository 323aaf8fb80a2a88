"""Every refusal has a number, says what was found and what to do, and has a section in docs/errors.md.

Messages name files, places and counts, never the content of a record.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Numbers of the refusals; the hundreds name the part that refused."""

    CONFIG_MISSING = 101
    CONFIG_SYNTAX = 102
    CONFIG_UNKNOWN_KEY = 103
    CONFIG_VALUE = 104

    CODEBOOK_MISSING = 201
    CODEBOOK_SYNTAX = 202
    CODEBOOK_VALUE = 203
    CODEBOOK_DUPLICATE = 204
    CODEBOOK_REFERENCE = 205
    CODEBOOK_CHANGED = 206
    CODEBOOK_PRIVATE = 207
    CODEBOOK_SOURCE = 208

    REGISTRY_MISSING = 301
    REGISTRY_COLUMN = 302
    REGISTRY_EMPTY = 303
    REGISTRY_TORN = 304
    REGISTRY_UNUSABLE = 305
    REGISTRY_DUPLICATE_PATIENT = 306
    REGISTRY_ENCODING = 307
    REGISTRY_QUERY = 308
    REGISTRY_UNDESCRIBED = 309
    REGISTRY_UNITS = 310
    REGISTRY_SERIES = 311
    REGISTRY_IDENTIFIER = 315
    EXCLUSIONS_UNKNOWN = 316

    MODEL_MISSING = 401
    MODEL_MANIFEST = 402
    MODEL_TARGETS = 403
    MODEL_ADAPTER = 404
    MODEL_QUANTIZATION = 405
    MODEL_UNFIT = 406
    MODEL_MAKING = 408
    MODEL_CACHE = 409

    RUN_OTHER_CONFIG = 501
    RUN_LOCKED = 502
    RUN_QUORUM = 503
    RUN_REPLY = 504
    RUN_CHECKPOINT = 505
    RUN_FAILED = 506
    RUN_ABSENT = 507
    GUARD_FELL = 546
    GUARD_UNDECIDED = 547

    LATTICE_RANGE = 601

    KEY_MISSING = 701
    KEY_UNKNOWN = 702
    KEY_PERMISSIONS = 703
    ROSTER_MISSING = 711
    ROSTER_CHANGED = 712
    ROSTER_SIGNATURE = 713
    REQUEST_BAD = 721
    KIT_EXISTS = 722
    CERTIFICATE_EXPIRED = 731
    SECAGG_TURN = 751
    SECAGG_REPLAYED = 752
    SECAGG_COHORT = 753
    SECAGG_KEYS = 754
    SECAGG_SHARE = 755
    SECAGG_SURVIVORS = 756
    SECAGG_INCOMPLETE = 757

    SERVER_UNREACHABLE = 801
    SERVER_TLS = 802
    SERVER_INSECURE = 803
    SERVER_CLOCK = 804
    SITE_RUNNING = 811
    SITE_PAUSED = 812
    SITE_SILENT = 813
    SITE_WORKER = 814
    SITE_IDENTITY = 815
    SITE_CLOSED = 816
    SITE_SILENCED = 817
    DISK_FULL = 821
    FILE_FORBIDDEN = 822
    POLICY_MISSING = 831
    POLICY_REFUSED = 832
    POLICY_SIGNATURE = 833
    POLICY_WEAKER = 834
    PRIVACY_UNIT = 835
    FEDERATION_OTHER = 836
    DP_REFUSED = 841
    BUDGET_SPENT = 842
    LEDGER_DAMAGED = 843
    LEDGER_ROLLED_BACK = 844
    LEDGER_OTHER = 845
    ROLLOUTS_UNAVAILABLE = 851
    ROLLOUTS_ADAPTER = 852
    ROLLOUTS_SHARED = 853
    RANK_LOST = 860
    RANKS_MISSING = 861
    RANKS_UNLIKE = 862
    OUTBOX_DAMAGED = 865
    WARMUP_SHORT = 870
    WARMUP_OTHER = 871
    WARMUP_LESSONS = 872
    WARMUP_DIVERGED = 873
    STUDY_DAMAGED = 881
    QUESTION_UNFIT = 890
    REVIEW_MISSING = 891
    REVIEW_OTHER = 892
    REVIEW_DAMAGED = 893
    REVIEW_MODELS = 894
    REVIEW_RATING = 895
    REVIEW_SMALL = 896

    FEDERATION_MISSING = 901
    PORT_IN_USE = 902
    COORDINATOR_DOWN = 903
    SERVICE_FAILED = 904
    RUN_UNKNOWN = 911
    RUN_ABORTED = 912
    PAGES_EXPOSED = 931
    PAGES_ACCOUNT = 932


TRANSIENT = frozenset(
    {Code.MODEL_MAKING, Code.SITE_PAUSED, Code.SITE_SILENT, Code.SITE_WORKER, Code.DISK_FULL, Code.RANK_LOST}
)
"""Refusals that may pass by themselves: the site is asked again."""


class FedReasonError(Exception):
    """A refusal that a person can act on.

    Parameters
    ----------
    code
        Number of the refusal.
    found
        What was found and where, without record content.
    fix
        What to do about it.
    """

    def __init__(self, code: Code, found: str, fix: str) -> None:
        super().__init__(f"E{code.value}: {found} {fix}")
        self.code = code
        self.found = found
        self.fix = fix

    def __reduce__(self) -> tuple[type[FedReasonError], tuple[Code, str, str]]:
        """Let the error cross a process boundary unchanged."""
        return type(self), (self.code, self.found, self.fix)
