"""What the layers of a network could come to on a device of given speed."""
