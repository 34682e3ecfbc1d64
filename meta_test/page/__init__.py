"""The page that a report leaves: one file, read without a network.

What is said and tabulated is in the markup; the script draws the charts and lets tables
be sorted and optimizers be hidden. All of it comes from the tree of `report.json`.
"""

from meta_test.page.document import page as page
