"""The conformance kit: small named checks that every plugin's components pass.

In a package's tests:

    from crosslayer.testing import checks_for

    @pytest.mark.parametrize("check", checks_for("flow", parameters={"sparsity": 0.5}), ids=str)
    def test_conformance(check):
        check()

From the command line: `crosslayer check-plugin flow`.
"""

from crosslayer.testing.kit import BoundCheck, CheckFailed, CheckResult, check_plugin, checks_for

__all__ = ["BoundCheck", "CheckFailed", "CheckResult", "check_plugin", "checks_for"]
