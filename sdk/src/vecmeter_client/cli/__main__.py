import sys

from vecmeter_client.cli import main

sys.exit(main())
