import sys

from tests.notebooks.executed import main

main(sys.argv[1:])
