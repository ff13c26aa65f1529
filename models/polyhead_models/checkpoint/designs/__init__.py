"""What whole models have besides attention, by family: functions of config.json.

design     the types of such descriptions
encoders   models that read a whole sequence at once
"""
