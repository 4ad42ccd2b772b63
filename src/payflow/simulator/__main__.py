"""`python -m payflow.simulator`"""

import uvicorn

from payflow.simulator import SimulatorSettings, create_simulator


def main() -> None:
    settings = SimulatorSettings()
    uvicorn.run(create_simulator(settings), host=settings.host, port=settings.port, access_log=False)


if __name__ == "__main__":
    main()
