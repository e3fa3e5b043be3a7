"""The engine, which takes users through a scenario: warm-up, measured window, drain. Each prompt gets one outcome."""
