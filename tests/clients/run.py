"""Runs the tests of this folder and prints "N passed, N failed" as the last line."""

import sys
import unittest

import support


def main() -> int:
    loader = unittest.defaultTestLoader
    suite = loader.loadTestsFromNames(sys.argv[1:]) if sys.argv[1:] else loader.discover(".", "test_*.py")
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    support.stop_all()
    broken = [test for test, _ in result.failures + result.errors] + result.unexpectedSuccesses
    failed = len(broken)  # a class that cannot be set up is one, though none of its tests ran
    passed = result.testsRun - sum(isinstance(test, unittest.TestCase) for test in broken) - len(result.skipped)
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


sys.exit(main())
