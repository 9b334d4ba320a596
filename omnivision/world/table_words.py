"""Chinese words for the labels, series and titles of the charts; a table with a label missing here stays English."""

COUNTRIES = {
    "Argentina": "阿根廷", "Australia": "澳大利亚", "Austria": "奥地利", "Brazil": "巴西", "Canada": "加拿大",
    "Chile": "智利", "China": "中国", "Cuba": "古巴", "Egypt": "埃及", "Finland": "芬兰", "France": "法国",
    "Germany": "德国", "Greece": "希腊", "India": "印度", "Iran": "伊朗", "Italy": "意大利", "Japan": "日本",
    "Kenya": "肯尼亚", "Mexico": "墨西哥", "Norway": "挪威", "Peru": "秘鲁", "Poland": "波兰", "Spain": "西班牙",
    "Sweden": "瑞典", "Turkey": "土耳其",
}
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
CHINESE = {
    **COUNTRIES,
    **{month: f"{number}月" for number, month in enumerate(MONTHS, 1)},
    "Thu": "周四", "Fri": "周五", "Sat": "周六", "Sun": "周日",
    "Gold": "金牌", "Silver": "银牌", "Bronze": "铜牌",
    "N": "北", "NE": "东北", "E": "东", "SE": "东南", "S": "南", "SW": "西南", "W": "西", "NW": "西北",
    "East": "东部", "West": "西部", "South": "南部", "Central": "中部",
    "Fossil": "化石", "Nuclear": "核能", "Renewable": "可再生",
    "Google": "谷歌", "Apple": "苹果", "Amazon": "亚马逊", "Facebook": "脸书", "Netflix": "奈飞",
    "Microsoft": "微软",
    "Audi": "奥迪", "Ford": "福特", "Honda": "本田", "Nissan": "日产", "Subaru": "斯巴鲁", "Toyota": "丰田",
    "Dodge": "道奇", "Jeep": "吉普", "Hyundai": "现代", "City": "城市", "Highway": "公路",
    "Chairs": "椅子", "Tables": "桌子", "Phones": "电话", "Paper": "纸", "Art": "美术", "Storage": "收纳",
    "Labels": "标签", "Copiers": "复印机", "Binders": "文件夹", "Machines": "机器",
    "Biology": "生物", "Business": "商业", "Computing": "计算机", "Education": "教育", "Engineering": "工程",
    "English": "英语", "Math": "数学", "Psychology": "心理学", "Farming": "农业", "Architecture": "建筑",
    "Asia": "亚洲", "Europe": "欧洲", "Africa": "非洲", "Americas": "美洲", "Oceania": "大洋洲",
    "Lunch": "午餐", "Dinner": "晚餐",
    "Life expectancy": "预期寿命", "Income": "人均收入", "Population": "人口", "Share price": "股价",
    "Medals": "奖牌", "Average bill": "平均账单", "Tips": "小费", "Wind": "风", "Electricity": "发电量",
    "Rainfall": "降雨量", "Temperature": "气温", "Sea temperature": "海水温度", "Unemployment": "失业率",
    "Sales": "销售额", "Emissions": "排放量", "Miles per gallon": "油耗", "Women graduates": "女毕业生",
    "Countries": "国家",
}
