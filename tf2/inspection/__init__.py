"""What is wrong with a set of images: duplicates, outliers, doubtful labels. NumPy alone.

May import what stands below it in the table of `tf2`.
"""
