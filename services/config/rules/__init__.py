"""The rules that configs, pools and base models have to keep, one module for each subject.

They decide and never write or wait: what else exists comes in as an argument. `validation.validate_config` is the
entrance for tenants' configs, `catalog_rules` for pools and base models.
"""
