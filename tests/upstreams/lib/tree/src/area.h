double area(double side);
