"""Former home of the claims."""

from edgelib.report.claims.caches import attribution_claim, recovery_claim  # noqa: F401
from edgelib.report.claims.differences import difference_claim, difference_summary  # noqa: F401
from edgelib.report.claims.gaps import gap_claim, gap_summary, matched_claim  # noqa: F401
from edgelib.report.claims.runs import prediction_claim, rank_claim, recommendation_claim, variance_claim  # noqa: F401
from edgelib.report.claims.text import Sentence, bullets, count_text, interval_text, p_text  # noqa: F401
from edgelib.stats.paired import settled  # noqa: F401
