"""Is it permitted? Checks and Subject → questions → decisions → Permit. The only place that makes a Permit."""

from gateway.authorize.authorizer import Authorizer, questions_at_a_time
from gateway.authorize.cache import DecisionCache
from gateway.authorize.plan import plans_by_route

__all__ = ["Authorizer", "DecisionCache", "plans_by_route", "questions_at_a_time"]
