"""The server's door: the application that the environment asks for."""

import gc
import logging
import sys

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from app.application import create_app
from app.logs import configure_logging
from app.overview import lookalikes
from app.settings import ConfigurationError, Settings, all_settings, load_settings

# After fewer new objects, Python would search those of requests in flight for garbage, in vain.
gc.set_threshold(10_000)
try:
    settings = load_settings(Settings)
    configure_logging(settings)
    for sentence in lookalikes(all_settings()):
        logging.getLogger(__name__).warning(sentence)
    app = create_app(settings)
except ConfigurationError as error:
    print(error, file=sys.stderr)
    sys.exit(STARTUP_FAILURE)  # with another code, `uvicorn --workers` would start its children again and again

if __name__ == "__main__":  # as an editor runs it
    uvicorn.run(app, log_config=None)
