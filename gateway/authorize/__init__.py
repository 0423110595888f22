"""May they? Checks and Subject → questions → decisions → Permit. The only place that makes a Permit.

plan      what a (route, method) asks, compiled at load
cache     what IAM said before, by the whole question
combine   many decisions, one
degrade   what stands in for an answer when IAM cannot give one
authorizer  the order of all that
"""

from gateway.authorize.authorizer import Authorizer, questions_at_a_time
from gateway.authorize.cache import DecisionCache
from gateway.authorize.plan import plans_by_route

__all__ = ["Authorizer", "DecisionCache", "plans_by_route", "questions_at_a_time"]
